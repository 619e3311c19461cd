"""The command line: parses, calls, prints. stdout is data, stderr is talk."""
