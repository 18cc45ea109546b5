"""Demosaicing: the two missing colours of every site, for Bayer and X-Trans."""
