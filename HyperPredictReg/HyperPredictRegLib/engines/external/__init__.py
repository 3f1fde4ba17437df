"""Engines that run a program of the user's: how it is found, run, watched and ended, and how images and results go to and fro."""
