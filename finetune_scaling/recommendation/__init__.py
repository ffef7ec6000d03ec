"""From fitted laws to a decision: candidates, costs, the choice and its risk, and the runs that would sharpen it."""
