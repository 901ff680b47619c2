"""The words of the house as values: record, request, attempt, outcome; nothing here does I/O."""
