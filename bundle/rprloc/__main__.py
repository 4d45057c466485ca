"""``python -m rprloc``: the command line, for programs that know which Python to run but not where scripts lie."""

from rprloc.apps.cli import main

if __name__ == "__main__":
    main()
