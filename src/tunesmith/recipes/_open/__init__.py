"""Opening what was saved, whatever it was trained for."""
