"""The contenders of the steps race, one file each; each runs in a process of its own."""
