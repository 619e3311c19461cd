"""Decoding loops. They know models and verification, and tell an observer what they do."""
