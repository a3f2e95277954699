"""Portal: the pages for staff and buyers."""
