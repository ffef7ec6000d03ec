"""From points to laws and guidance: points, laws, uncertainty, fitting, findings and reporting, in this order."""
