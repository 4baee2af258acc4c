package embedded

func childDisk() int { return 2 }
