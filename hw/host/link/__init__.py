"""The serial link: frames, commands, replies."""
