"""The contenders of the races, which other frameworks' interpreters run too."""
