"""Pure arithmetic over plain data: which pod takes a stage, and which pods change role."""
