"""Tables whose names stay readable, in narrow terminals, in files and in pipes."""
