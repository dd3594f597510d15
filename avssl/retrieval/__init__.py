"""Search among clips by sound or picture: an index folder, how it is built, and how it answers."""
