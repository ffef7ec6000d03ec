"""From points to laws and guidance: points, laws, fitting, uncertainty, findings and reporting, in this order."""
