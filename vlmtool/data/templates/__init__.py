"""Chat templates: one jinja file each, named as XTuner names them. `library.py` finds and reads them."""
