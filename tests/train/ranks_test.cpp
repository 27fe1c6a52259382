#include "stuffed/train/ranks.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "src/train/distributed/lifeline.h"
#include "src/train/distributed/star.h"
#include "stuffed/core/error.h"

namespace stuffed::train {
namespace {

/// Connections of `size` ranks, by rank: those of rank 0 to all others, and of each other to rank 0.
std::vector<std::vector<Socket>> connections(int size) {
  std::vector<std::vector<Socket>> all(static_cast<size_t>(size));
  for (size_t rank = 1; rank < all.size(); ++rank) {
    int pair[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    all[0].emplace_back(pair[0]);
    all[rank].emplace_back(pair[1]);
  }
  return all;
}

/// Runs `body` as each rank, on a thread of its own.
void as_ranks(int size, const std::function<void(int rank, Star& star)>& body) {
  auto sockets = connections(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      Star star(rank, size, std::move(sockets[static_cast<size_t>(rank)]));
      body(rank, star);
    });
  for (std::thread& thread : threads)
    thread.join();
}

/// What each rank gives: a large tensor, a matrix and a scalar.
std::vector<Tensor> given_by(int rank) {
  const auto draw = [rank](at::IntArrayRef shape, uint64_t seed) {
    at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed + rank);
    return at::normal(0.0, 1.0, shape, generator, at::TensorOptions(at::kFloat)) *
           (rank == 1 ? 1e4 : 1);
  };
  return {draw({(1 << 20) + 77}, 1), draw({5, 7}, 100), draw({}, 200)};
}

TEST(Star, SumsInTheOrderOfRanks) {
  constexpr int kRanks = 4;
  std::vector<Tensor> expected = given_by(0);
  for (int rank = 1; rank < kRanks; ++rank)
    for (size_t i = 0; i < expected.size(); ++i)
      expected[i] = expected[i] + given_by(rank)[i];
  std::vector<std::vector<Tensor>> sums(kRanks);
  as_ranks(kRanks, [&](int rank, Star& star) {
    const std::vector<Tensor> own = given_by(rank);
    star.sum(own);
    sums[static_cast<size_t>(rank)] = own;
  });
  for (const auto& sum : sums)
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_TRUE(at::equal(sum[i], expected[i]));
  // The order matters here: another one has other bits.
  Tensor backwards = given_by(kRanks - 1)[0];
  for (int rank = kRanks - 2; rank >= 0; --rank)
    backwards = backwards + given_by(rank)[0];
  EXPECT_FALSE(at::equal(backwards, expected[0]));
}

TEST(Star, JoinsFlagsBroadcastsAndGathers) {
  as_ranks(3, [](int rank, Star& star) {
    EXPECT_EQ(star.combine(1U << rank), 7U);
    EXPECT_EQ(star.broadcast(rank == 0 ? "of the first" : ""), "of the first");
    const Tensor tensor = at::full({2, 3}, rank);
    star.broadcast(tensor);
    EXPECT_TRUE(at::equal(tensor, at::zeros({2, 3}, at::kLong)));
    const std::vector<Tensor> all = star.gather(at::full({2}, rank, at::kFloat));
    EXPECT_EQ(all.size(), rank == 0 ? 3U : 0U);
    if (rank == 0) {
      EXPECT_TRUE(at::equal(at::cat(all), at::tensor({0.F, 0.F, 1.F, 1.F, 2.F, 2.F})));
    }
  });
}

TEST(Star, SaysWhichRankIsGone) {
  as_ranks(3, [](int rank, Star& star) {
    if (rank == 2)
      return;  // and its connection ends
    try {
      star.sum({at::ones({3})});
      FAIL() << "rank " << rank;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kRankLost);
      const std::string said =
          error.what();  // rank 1 misses rank 0, which left for the lack of rank 2
      EXPECT_NE(said.find(rank == 0 ? "rank 2 of 3 is gone" : "rank 0 of 3 is gone"), said.npos)
          << said;
    }
  });
}

TEST(Star, RanksOutOfStepAreFound) {
  as_ranks(2, [](int rank, Star& star) {
    if (rank == 1)
      EXPECT_THROW(star.combine(0), Error);  // rank 0 leaves
    else
      EXPECT_THROW(star.sum({at::ones({3})}), Error);
  });
}

/// Exit codes and standard error, together, of processes that watch one another, each in `body`.
struct Ended {
  std::vector<int> codes;  // minus the signal
  std::string said;
};

Ended as_processes(int size, const std::function<void(int rank, Lifeline& lifeline)>& body) {
  auto sockets = connections(size);
  int out[2];
  EXPECT_EQ(::pipe(out), 0);
  std::vector<pid_t> children;
  for (int rank = 0; rank < size; ++rank) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::dup2(out[1], STDERR_FILENO);
      ::close(out[0]);
      auto own = std::move(sockets[static_cast<size_t>(rank)]);
      sockets.clear();  // those of the others
      Lifeline lifeline(rank, size, std::move(own));
      body(rank, lifeline);
      ::_exit(0);
    }
    children.push_back(child);
  }
  ::close(out[1]);
  sockets.clear();
  Ended ended;
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    ended.codes.push_back(WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
  }
  char text[4096];
  for (ssize_t count = 0; (count = ::read(out[0], text, sizeof text)) > 0;)
    ended.said.append(text, static_cast<size_t>(count));
  ::close(out[0]);
  return ended;
}

void work_on() {
  std::this_thread::sleep_for(std::chrono::seconds(60));
}

std::string lost(int rank) {
  return "stuffed: " + lost_rank_text(rank, 3) + "\n";
}

TEST(Lifeline, ADeathEndsAllWithOneMessage) {
  for (const int dies : {0, 1, 2}) {
    const Ended ended = as_processes(3, [dies](int rank, Lifeline&) {
      if (rank == dies)
        ::kill(::getpid(), SIGKILL);
      work_on();
    });
    std::vector<int> expected(3, 1);
    expected[static_cast<size_t>(dies)] = -SIGKILL;
    EXPECT_EQ(ended.codes, expected) << dies;
    EXPECT_EQ(ended.said, lost(dies)) << dies;
  }
}

TEST(Lifeline, AFailureIsReportedByRankZero) {
  for (const int fails : {0, 1, 2}) {
    const Ended ended = as_processes(3, [fails](int rank, Lifeline& lifeline) {
      if (rank == fails)
        lifeline.fail(7, "no room");
      if (rank == fails)
        ::_exit(7);  // as the caller does on rank 0, which reports by itself
      work_on();
    });
    EXPECT_EQ(ended.codes, std::vector<int>(3, 7)) << fails;
    EXPECT_EQ(ended.said, fails == 0 ? "" : fmt::format("stuffed: rank {}: no room\n", fails));
  }
}

TEST(Lifeline, OfTwoFailuresOneIsReported) {
  const Ended ended = as_processes(3, [](int rank, Lifeline& lifeline) {
    if (rank != 0)
      lifeline.fail(3, "no file");
    work_on();
  });
  EXPECT_EQ(ended.codes, std::vector<int>(3, 3));
  EXPECT_TRUE(ended.said == "stuffed: rank 1: no file\n" ||
              ended.said == "stuffed: rank 2: no file\n")
      << ended.said;
}

TEST(Lifeline, WhoSaidGoodbyeMayLeave) {
  const Ended ended = as_processes(3, [](int rank, Lifeline& lifeline) {
    lifeline.goodbye();
    std::this_thread::sleep_for(std::chrono::milliseconds(20 * rank));
  });
  EXPECT_EQ(ended.codes, std::vector<int>(3, 0));
  EXPECT_EQ(ended.said, "");
}

TEST(Ranks, OneProcessIsAlone) {
  Ranks ranks;
  EXPECT_TRUE(ranks.is_alone() && ranks.is_first());
  EXPECT_EQ(ranks.agree(6), 6U);
  const Tensor tensor = at::arange(3, at::kFloat);
  ranks.average({tensor});
  EXPECT_TRUE(at::equal(ranks.gather(tensor), at::arange(3, at::kFloat)));
  EXPECT_EQ(ranks.broadcast("text"), "text");
  ranks.end();
  ranks.fail(1, "nothing happens");
}

}  // namespace
}  // namespace stuffed::train
