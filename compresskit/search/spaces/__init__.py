"""What is searched over, one file a technique."""
