"""How far fitted values can be trusted: leave-out errors and intervals."""
