"""The exercises of `demos/lesson.ipynb`: their solutions, their tests, and mistakes that the tests know by sight."""
