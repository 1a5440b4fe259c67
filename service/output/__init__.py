"""Predictions to bytes: NumPy in, PNG and npy out, on the HTTP side."""
