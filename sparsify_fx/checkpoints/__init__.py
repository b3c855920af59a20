"""Files that hold states: written whole, sealed with checksums, read without running what is in them."""
