"""Tools of this project's maintainers. They are no part of the installed packages."""
