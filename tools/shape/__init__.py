"""The rules of the house, one file each; `tools/check_shape.py` walks the tree and applies them."""
