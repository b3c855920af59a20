"""The demo of the command line: real digits, three methods, one table."""
