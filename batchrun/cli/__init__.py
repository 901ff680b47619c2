"""The command: arguments, signals and terminal in; exit status out."""
