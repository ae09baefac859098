"""Getting a file back, checking its health, renewing and releasing it."""
