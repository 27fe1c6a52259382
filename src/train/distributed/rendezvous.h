// How the ranks of a run find one another.
#pragma once
#include <vector>

#include <c10/util/intrusive_ptr.h>

#include "src/train/distributed/socket.h"
#include "stuffed/train/launch.h"

namespace c10d {
class Store;
}

namespace stuffed::train {

/// Connections: on rank 0 to ranks 1, 2, ..., else one, to rank 0.
struct Met {
  c10::intrusive_ptr<c10d::Store> store;  // where the ranks may leave words for one another
  std::vector<Socket> data, lifelines;
};

/// By c10d's TCPStore at the launch's address, which rank 0 serves unless torchrun does.
/// Errors  kRankLost if a rank does not come within `timeout` seconds; Usage if the port is in use or
///         ranks differ in how many they are
Met meet(const Launch& launch, double timeout);

}  // namespace stuffed::train
