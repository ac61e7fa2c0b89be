"""What is on the chip. Folders and files are the blocks of the diagram."""
