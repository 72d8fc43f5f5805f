"""The only door to compiled code: where arrays lie, and which module runs on them."""
