"""How vectors travel, where that is shared by hardware and software."""
