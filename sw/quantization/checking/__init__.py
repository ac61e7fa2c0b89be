"""What is checked: models and recordings as they come, networks, and a bound on their errors."""
