"""Situations that users bring, each with its right value: the rows of docs/cases.md."""
