"""`python -m tfgen_command`, the same as `tfgen`."""

from tfgen_command import main

if __name__ == "__main__":
    main()
