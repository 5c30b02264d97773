// Stands in for the kernels' group_intrinsics.h on the host.
#pragma once

#include "matrix_intrinsics.h"
