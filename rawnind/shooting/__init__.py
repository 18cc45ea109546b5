"""Looks at photos before shooting is over: what would be rejected, and what to shoot again."""
