"""From points to laws: reading, fitting, leave-out errors, critical sizes, claims, plots and the report."""
