"""The pages for staff and buyers."""
