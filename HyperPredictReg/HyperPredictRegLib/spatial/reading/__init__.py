"""Files from outside: what they are, what their headers state, and whether that can be trusted, before ITK opens them.

ITK mends much in silence and ends the process on some headers; everything here comes before it or checks what it made.
"""
