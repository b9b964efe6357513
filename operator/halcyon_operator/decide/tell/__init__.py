"""Tells the user about a run: its conditions, its events and the sentences in them. Nothing here decides anything."""
