"""Compares the steps' speed with other engines, and measures whether a day still costs a day after years."""
