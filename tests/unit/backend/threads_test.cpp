// Where workers run: on cores of their own, if the process has its cores for itself.
#include <thread>

#include "oracle.hpp"

using namespace ctrain;

namespace {

cpu_set_t cores_of_this_thread() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  sched_getaffinity(0, sizeof cores, &cores);
  return cores;
}

/// An environment variable for as long as this lives.
class Variable {
 public:
  explicit Variable(const char* name) : name_(name) { setenv(name, "2", 1); }
  ~Variable() { unsetenv(name_); }

 private:
  const char* name_;
};

}  // namespace

TEST_CASE("backend.threads.workers_have_a_core_each_where_the_process_has_all_its_own") {
  const cpu_set_t given = cores_of_this_thread();
  const int count = CPU_COUNT(&given);
  if (!cpu::has_own_cores(count)) return;  // a launcher has its say
  CHECK(!cpu::has_own_cores(count + 1));
  for (const char* name : {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"}) {
    const Variable set(name);
    CHECK(!cpu::has_own_cores(count));
  }
  if (count == sysconf(_SC_NPROCESSORS_ONLN)) {
    const Variable neighbours("OMPI_COMM_WORLD_LOCAL_SIZE");
    CHECK(!cpu::has_own_cores(count));
  }

  const Cpu backend(count);
  std::vector<cpu_set_t> cores(static_cast<std::size_t>(count));
  cpu::Threads{count}.together(
      count, [&](int worker) { cores[std::size_t(worker)] = cores_of_this_thread(); });
  cpu_set_t taken;
  CPU_ZERO(&taken);
  for (int worker = 1; worker < count; ++worker) {
    CHECK(CPU_COUNT(&cores[std::size_t(worker)]) == 1);
    CPU_OR(&taken, &taken, &cores[std::size_t(worker)]);
  }
  CHECK(CPU_COUNT(&taken) == count - 1);
  CHECK(CPU_EQUAL(&cores[0], &given));  // and with it every thread that the caller starts later
  cpu_set_t later;
  std::thread([&] { later = cores_of_this_thread(); }).join();
  CHECK(CPU_EQUAL(&later, &given));
}
