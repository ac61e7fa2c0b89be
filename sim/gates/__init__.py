"""The gates themselves: a whole board as the tools left it, simulated and looked through."""
