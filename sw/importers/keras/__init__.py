"""Keras files, read without TensorFlow."""
