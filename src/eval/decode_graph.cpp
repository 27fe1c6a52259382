#include "decode_graph.h"

#include "stuffed/core/cuda_library.h"

namespace stuffed::eval {

namespace {

class CapturedGraph : public DecodeGraph {
 public:
  explicit CapturedGraph(std::function<void()> replay) : replay_(std::move(replay)) {}
  void replay() override { replay_(); }

 private:
  std::function<void()> replay_;
};

}  // namespace

std::unique_ptr<DecodeGraph> record_graph(at::Device device,
                                          const std::function<void()>& work,
                                          std::string& why_not) {
  if (cuda_library() == nullptr) {
    why_not = why_no_cuda();
    return nullptr;
  }
  auto replay = cuda_library()->record(device, work, &why_not);
  return replay ? std::make_unique<CapturedGraph>(std::move(replay)) : nullptr;
}

}  // namespace stuffed::eval
