"""Measurements against the roofline of the machine they run on. No part of the program imports them."""
