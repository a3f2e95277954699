"""How fast the steps are beside other ways to do the same work, and whether a day still costs a day after years."""
