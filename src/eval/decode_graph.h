// GPU work that is recorded once and then replayed by a single launch.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include <ATen/core/TensorBody.h>

namespace stuffed::eval {

class DecodeGraph {
 public:
  virtual ~DecodeGraph() = default;
  /// Queues the recorded work on the current stream.
  virtual void replay() = 0;
};

/// Runs `work` twice on a stream of its own, then records it. Whatever it reads and writes from
/// outside must stay where it is; what it allocates stays allocated as long as the graph. Waits for
/// the device. An error of the two ordinary runs is thrown; if only the recording fails, the result
/// is null and `why_not` says why.
std::unique_ptr<DecodeGraph> record_graph(at::Device device,
                                          const std::function<void()>& work,
                                          std::string& why_not);

}  // namespace stuffed::eval
