"""Mean and standard deviation of pixels in [0, 1], per channel, by which images are normalised."""

# The published recipes normalise with ImageNet's, on CIFAR too (method.md, "Augmentation").
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_PHOTO_MEAN, GREY_PHOTO_STD = (0.449,), (0.226,)  # the means of ImageNet's three
MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)
