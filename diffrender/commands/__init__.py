"""The command line, one file a command. Nothing heavy is imported here: `--help` answers at once."""
