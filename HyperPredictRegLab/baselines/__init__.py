"""The method of the paper that started the project, on the same data, to compare with."""
