"""Trying out what a program computes, on sizes that are made up."""
