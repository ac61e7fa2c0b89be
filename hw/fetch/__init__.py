"""From events to columns: the image, the schedule, the addresses."""
