"""Files: opened only when they are plain files, whole or absent, deleted only when they are ours."""
